"""How radiologists say it: several wordings for each disease of a phantom and for each normal anatomy.

In templates, `{size}` is the largest size in mm, `{side}` left, right or bilateral, `{where}` the place of the largest
lesion, `{degree}` mild, moderate or severe, `{extent}` small, moderate or large, `{s}` the plural's s.
"""

from dataclasses import dataclass

Texts = tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """The sentences for one disease."""

    one: Texts
    """Findings, a single lesion."""
    many: Texts
    """Findings, several lesions (or both sides)."""
    impression: Texts
    absent: Texts


WORDINGS: dict[str, Wording] = {
    "lung.nodule": Wording(
        ("Solid nodule in the {where} measuring {size} mm.", "A {size} mm pulmonary nodule is seen in the {where}.",
         "Solid nodule in the lung, {where}, {size} mm.", "There is a round soft tissue nodule of {size} mm in the {where}."),
        ("Several solid pulmonary nodules, the largest measuring {size} mm in the {where}.",
         "Multiple lung nodules up to {size} mm, the largest in the {where}."),
        ("Solid nodule{s} in the lung.", "Pulmonary nodule{s} up to {size} mm, {where}.", "Lung nodule{s}, {size} mm. Follow-up advised."),
        ("The lungs show no nodule.", "No pulmonary nodule.", "No suspicious lung nodules are seen."),
    ),
    "lung.emphysema": Wording(
        ("Emphysema of the lungs.", "{degree} centrilobular emphysema, predominantly in the upper lobes of the lungs.",
         "Emphysematous changes of both lungs, {degree}.", "Low attenuation areas in both lungs in keeping with {degree} emphysema."),
        (),
        ("Emphysema of the lungs.", "{degree} pulmonary emphysema.", "Emphysema."),
        ("The lungs show no emphysema.", "No emphysema.", "No emphysematous change of the lungs."),
    ),
    "lung.consolidation": Wording(
        ("Consolidation in the {where}.", "Consolidation in the lung, {where}, extending over {size} mm.",
         "Airspace consolidation is present in the {where}.", "There is a dense airspace opacity in the {where} consistent with consolidation."),
        ("Consolidation in both lungs, most extensive in the {where}.", "Bilateral pulmonary consolidations, largest in the {where}."),
        ("Consolidation in the lung.", "Consolidation of the {where}, possibly pneumonia.", "Pulmonary consolidation{s}."),
        ("The lungs show no consolidation.", "No consolidation.", "No airspace consolidation in the lungs."),
    ),
    "lung.atelectasis": Wording(
        ("Atelectasis of the lung at the {side} base.", "{side} basal atelectasis of the lung.",
         "Band-like opacity at the {side} lung base consistent with atelectasis.", "Subsegmental atelectasis at the base of the {side} lung."),
        ("Bibasal atelectasis of the lungs.", "Atelectasis of the lung bases on both sides.", "Bilateral lower lobe atelectasis."),
        ("Atelectasis of the lung.", "{side} basal atelectasis.", "Atelectasis at the lung base, {side}."),
        ("The lungs show no atelectasis.", "No atelectasis.", "No atelectatic change at the lung bases."),
    ),
    "lung.pleural_effusion": Wording(
        ("{extent} {side} pleural effusion.", "Pleural effusion on the {side}, depth {size} mm.",
         "There is a {extent} layering pleural effusion on the {side}.", "Pleural effusion, {side}, {extent}."),
        ("Bilateral pleural effusion, up to {size} mm deep.", "{extent} pleural effusions on both sides.", "Bilateral pleural effusions."),
        ("Pleural effusion.", "{side} pleural effusion.", "{extent} {side} pleural effusion."),
        ("No pleural effusion.", "The pleural spaces are clear.", "No fluid in the pleural spaces."),
    ),
    "heart.cardiomegaly": Wording(
        ("Cardiomegaly.", "The heart is enlarged.", "Enlarged cardiac silhouette, in keeping with {degree} cardiomegaly.",
         "The heart is enlarged with a transverse diameter of {size} mm."),
        (),
        ("Cardiomegaly.", "{degree} cardiomegaly.", "Enlarged heart."),
        ("The heart is of normal size.", "No cardiomegaly.", "The heart is not enlarged."),
    ),
    "heart.pericardial_effusion": Wording(
        ("Pericardial effusion.", "Pericardial effusion up to {size} mm thick.", "{extent} pericardial effusion surrounds the heart.",
         "There is fluid in the pericardium measuring {size} mm."),
        (),
        ("Pericardial effusion.", "{extent} pericardial effusion."),
        ("No pericardial effusion.", "No pericardial fluid."),
    ),
    "heart.coronary_calcification": Wording(
        ("Coronary artery calcification.", "{degree} calcification of the {where}.", "Calcified coronary plaques, {where}.",
         "{degree} coronary artery calcification is noted."),
        (),
        ("Coronary artery calcification.", "{degree} coronary calcification.", "Coronary artery disease with calcification of the vessel walls."),
        ("No coronary calcification.", "No calcified plaques of the coronary arteries.", "The coronary arteries show no calcification."),
    ),
    "esophagus.hiatal_hernia": Wording(
        ("Hiatal hernia.", "Hiatal hernia measuring {size} mm.", "{extent} sliding hiatal hernia.",
         "The distal esophagus is widened by a hiatal hernia of {size} mm."),
        (),
        ("Hiatal hernia.", "{extent} hiatal hernia."),
        ("No hiatal hernia.", "No hernia at the esophageal hiatus."),
    ),
    "liver.steatosis": Wording(
        ("Fatty liver.", "Diffusely decreased attenuation of the liver consistent with steatosis.", "{degree} hepatic steatosis.",
         "The liver parenchyma is of low density, in keeping with fatty liver."),
        (),
        ("Fatty liver.", "{degree} hepatic steatosis.", "Hepatic steatosis."),
        ("The liver has normal density.", "No hepatic steatosis.", "Liver attenuation is normal."),
    ),
    "liver.cyst": Wording(
        ("Cyst in the liver.", "A {size} mm cyst is seen in the {where}.", "Simple hepatic cyst in the {where}, {size} mm.",
         "Well defined fluid attenuation lesion of {size} mm in the {where}, consistent with a liver cyst."),
        ("Several liver cysts, the largest measuring {size} mm in the {where}.", "Multiple hepatic cysts up to {size} mm."),
        ("Cyst{s} in the liver.", "Hepatic cyst{s}.", "Simple liver cyst{s}, up to {size} mm."),
        ("No cyst in the liver.", "No hepatic cyst."),
    ),
    "liver.tumor": Wording(
        ("Tumor in the liver.", "Solid mass in the {where} measuring {size} mm, suspicious for tumor.",
         "A {size} mm hepatic tumor is seen in the {where}.", "Ill-defined hepatic mass of {size} mm in the {where}."),
        ("Several liver tumors, the largest measuring {size} mm in the {where}.", "Multiple hepatic masses up to {size} mm, suspicious for metastases."),
        ("Tumor{s} in the liver.", "Hepatic mass{es} suspicious for malignancy, up to {size} mm.", "Liver tumor{s}, {where}."),
        ("No tumor in the liver.", "No suspicious hepatic mass."),
    ),
    "gallbladder.stone": Wording(
        ("Gallstone.", "Calcified gallstone of {size} mm in the gallbladder.", "A {size} mm stone lies in the gallbladder.",
         "Cholelithiasis with a calculus of {size} mm."),
        ("Several gallstones up to {size} mm.", "Multiple calculi in the gallbladder, the largest {size} mm.", "Cholelithiasis with multiple stones."),
        ("Gallstone{s}.", "Cholelithiasis.", "Stone{s} in the gallbladder."),
        ("No gallstone.", "No calcified gallstones.", "No stones in the gallbladder."),
    ),
    "pancreas.cyst": Wording(
        ("Pancreatic cyst.", "Cystic lesion in the {where} of the pancreas, {size} mm.", "A {size} mm cyst is seen in the pancreatic {where}.",
         "Pancreatic cyst of the {where} measuring {size} mm."),
        (),
        ("Pancreatic cyst.", "Cyst of the pancreatic {where}, {size} mm."),
        ("No pancreatic cyst.", "No cystic lesion of the pancreas."),
    ),
    "pancreas.tumor": Wording(
        ("Pancreatic tumor.", "Hypodense mass in the {where} of the pancreas measuring {size} mm.", "A {size} mm pancreatic tumor is seen in the {where}.",
         "Solid mass of the pancreatic {where}, {size} mm, suspicious for carcinoma."),
        (),
        ("Pancreatic tumor.", "Mass of the pancreatic {where}, suspicious for malignancy.", "Tumor of the pancreatic {where}."),
        ("No pancreatic tumor.", "No pancreatic mass."),
    ),
    "spleen.splenomegaly": Wording(
        ("Splenomegaly.", "The spleen is enlarged.", "Enlarged spleen with a length of {size} mm.", "{degree} splenomegaly, {size} mm."),
        (),
        ("Splenomegaly.", "{degree} splenomegaly.", "Enlarged spleen."),
        ("The spleen is of normal size.", "No splenomegaly.", "The spleen is not enlarged."),
    ),
    "kidney.cyst": Wording(
        ("Renal cyst.", "A {size} mm simple cyst at the {where} of the {side} kidney.", "Simple renal cyst on the {side}, {size} mm.",
         "{side} renal cyst measuring {size} mm.", "Cortical cyst of {size} mm in the {side} kidney."),
        ("Several renal cysts, the largest {size} mm.", "{side} renal cysts up to {size} mm.", "Multiple simple renal cysts, {side}."),
        ("Renal cyst{s}.", "{side} renal cyst{s}.", "Simple kidney cyst{s}, up to {size} mm."),
        ("No renal cyst.", "No cyst of the kidneys.", "The kidneys show no cyst."),
    ),
    "kidney.stone": Wording(
        ("Renal stone.", "A {size} mm stone in the {side} kidney, {where}.", "{side} nephrolithiasis with a calculus of {size} mm at the {where}.",
         "Calcified renal stone on the {side}, {size} mm."),
        ("Several renal stones up to {size} mm, {side}.", "{side} nephrolithiasis with multiple stones up to {size} mm."),
        ("Renal stone{s}.", "{side} nephrolithiasis.", "Kidney stone{s}, {side}."),
        ("No renal stone.", "No nephrolithiasis.", "No stones in the kidneys."),
    ),
    "kidney.hydronephrosis": Wording(
        ("Hydronephrosis.", "{degree} {side} hydronephrosis.", "Dilatation of the {side} renal collecting system consistent with {degree} hydronephrosis.",
         "Hydronephrosis of the {side} kidney."),
        ("Bilateral hydronephrosis.", "Dilated collecting systems of both kidneys in keeping with hydronephrosis."),
        ("Hydronephrosis.", "{side} hydronephrosis.", "{degree} {side} hydronephrosis."),
        ("No hydronephrosis.", "The renal collecting systems are not dilated."),
    ),
    "adrenal_gland.nodule": Wording(
        ("Adrenal nodule.", "A {size} mm nodule of the {side} adrenal gland.", "{side} adrenal nodule measuring {size} mm.",
         "The {side} adrenal gland contains a nodule of {size} mm."),
        ("Bilateral adrenal nodules up to {size} mm.", "Nodules of both adrenal glands."),
        ("Adrenal nodule{s}.", "{side} adrenal nodule{s}.", "Adrenal nodule{s}, {size} mm, probably adenoma."),
        ("No adrenal nodule.", "No adrenal mass."),
    ),
    "stomach.wall_thickening": Wording(
        ("Gastric wall thickening.", "Thickening of the gastric wall to {size} mm{ofpart}.", "The wall of the stomach is thickened{ofpart}, {size} mm.",
         "{degree} gastric wall thickening{ofpart}."),
        (),
        ("Gastric wall thickening.", "Gastric wall thickening, gastroscopy advised.", "Thickened wall of the stomach."),
        ("No gastric wall thickening.", "The gastric wall is not thickened.", "The stomach wall is thin."),
    ),
    "portal_vein.dilatation": Wording(
        ("Dilated portal vein.", "The portal vein is dilated to {size} mm.", "Dilated portal vein, {size} mm, suggesting portal hypertension.",
         "Portal vein caliber is increased to {size} mm."),
        (),
        ("Dilated portal vein.", "Dilatation of the portal vein.", "Wide portal vein, possible portal hypertension."),
        ("The portal vein is of normal caliber.", "No dilatation of the portal vein.", "Normal width of the portal vein."),
    ),
    "small_intestine.obstruction": Wording(
        ("Small bowel obstruction.", "Dilated small bowel loops up to {size} mm with air-fluid levels, consistent with obstruction.",
         "Distended fluid-filled small bowel loops with a caliber of {size} mm. Small bowel obstruction.",
         "Small bowel obstruction with loops dilated to {size} mm."),
        (),
        ("Small bowel obstruction.", "Mechanical small bowel obstruction.", "Small bowel ileus with dilated loops."),
        ("No small bowel obstruction.", "The small bowel is not dilated.", "No dilated small bowel loops."),
    ),
    "colon.obstruction": Wording(
        ("Large bowel obstruction.", "The colon is dilated to {size} mm proximal to the {where}, consistent with large bowel obstruction.",
         "Large bowel obstruction with a transition at the {where}.", "Distended fluid-filled colon up to {size} mm, large bowel obstruction."),
        (),
        ("Large bowel obstruction.", "Large bowel obstruction at the {where}.", "Colonic obstruction."),
        ("No large bowel obstruction.", "The colon is not dilated.", "No colonic dilatation."),
    ),
    "colon.tumor": Wording(
        ("Colon tumor.", "Soft tissue mass of the {where} measuring {size} mm, suspicious for colon tumor.", "A {size} mm colon tumor in the {where}.",
         "Irregular colonic mass in the {where}, {size} mm."),
        (),
        ("Colon tumor.", "Tumor of the {where}, suspicious for colorectal carcinoma.", "Colonic mass, {where}."),
        ("No colon tumor.", "No colonic mass.", "No mass of the colon."),
    ),
    "urinary_bladder.stone": Wording(
        ("Bladder stone.", "A {size} mm stone in the urinary bladder.", "Calcified bladder stone of {size} mm.", "Bladder calculus measuring {size} mm."),
        ("Several bladder stones up to {size} mm.", "Multiple calculi in the urinary bladder, the largest {size} mm."),
        ("Bladder stone{s}.", "Stone{s} in the urinary bladder."),
        ("No bladder stone.", "No calculi in the urinary bladder."),
    ),
    "urinary_bladder.tumor": Wording(
        ("Bladder tumor.", "Polypoid mass at the {where} of the bladder, {size} mm.", "A {size} mm bladder tumor at the {where}.",
         "Soft tissue mass of the urinary bladder at the {where} measuring {size} mm."),
        (),
        ("Bladder tumor.", "Mass of the urinary bladder, suspicious for urothelial carcinoma.", "Bladder tumor, cystoscopy advised."),
        ("No bladder tumor.", "No mass of the urinary bladder."),
    ),
    "sacrum.metastasis": Wording(
        ("Sclerotic lesion in the sacrum.", "A {size} mm sclerotic lesion in the sacrum, {where}.", "Dense sclerotic focus of the sacrum, {where}, {size} mm, suspicious for metastasis.",
         "Osteoblastic metastasis in the sacrum at the {where} measuring {size} mm."),
        ("Several sclerotic lesions in the sacrum up to {size} mm.", "Multiple sclerotic metastases of the sacrum, the largest {size} mm."),
        ("Sclerotic lesion{s} in the sacrum.", "Sclerotic bone metastas{is} in the sacrum.", "Osteoblastic sacral lesion{s}, suspicious for metastasis."),
        ("No sclerotic lesion in the sacrum.", "No sacral bone lesion.", "No metastasis in the sacrum."),
    ),
}  # fmt: skip

NORMAL: dict[str, Texts] = {
    "lung": ("The lungs are clear.", "The lungs are unremarkable.", "No nodule, consolidation or pleural effusion.",
             "Clear lungs without nodule, emphysema or atelectasis.", "Both lungs are well aerated. No pleural effusion."),
    "heart": ("The heart is unremarkable.", "The heart is of normal size. No pericardial effusion.", "Normal heart.",
              "Heart size is normal without pericardial effusion or coronary calcification."),
    "esophagus": ("The esophagus is unremarkable.", "Normal esophagus.", "The esophagus is of normal course and caliber. No hiatal hernia."),
    "liver": ("The liver is unremarkable.", "The liver has normal density. No focal liver lesion.", "Normal liver without cyst or tumor.",
              "The liver is normal in size, contour and attenuation."),
    "gallbladder": ("The gallbladder is unremarkable.", "Normal gallbladder without stones.", "The gallbladder is thin-walled. No gallstone."),
    "pancreas": ("The pancreas is unremarkable.", "Normal pancreas.", "No pancreatic cyst or tumor.", "The pancreas is of normal size without mass."),
    "spleen": ("The spleen is unremarkable.", "Normal spleen.", "The spleen is of normal size.", "Normal size and attenuation of the spleen."),
    "kidney": ("The kidneys are unremarkable.", "No renal stone, cyst or hydronephrosis.", "Normal kidneys on both sides.",
               "Both kidneys are normal in size without hydronephrosis."),
    "adrenal_gland": ("The adrenal glands are unremarkable.", "Normal adrenal glands.", "The adrenal glands are slender. No adrenal nodule."),
    "stomach": ("The stomach is unremarkable.", "Normal stomach.", "The stomach is normally distended. No gastric wall thickening."),
    "portal_vein": ("The portal vein is unremarkable.", "The portal vein is patent and of normal caliber.", "Normal portal vein."),
    "small_intestine": ("The small bowel is unremarkable.", "Small bowel loops are of normal caliber.", "Normal small intestine. No small bowel obstruction."),
    "colon": ("The colon is unremarkable.", "Normal colon.", "No large bowel obstruction or colon tumor.", "The large bowel is of normal caliber without mass."),
    "urinary_bladder": ("The urinary bladder is unremarkable.", "Normal urinary bladder.", "No bladder stone or tumor.", "The bladder is smooth-walled and well distended."),
    "sacrum": ("The sacrum is unremarkable.", "Normal sacrum.", "No bone lesion in the sacrum.", "The sacrum is intact."),
}  # fmt: skip

HEALTHY_IMPRESSION: Texts = (
    "No significant abnormality of the chest, abdomen and pelvis.",
    "Normal CT of the chest, abdomen and pelvis.",
    "No acute or suspicious finding.",
    "Unremarkable examination.",
)
